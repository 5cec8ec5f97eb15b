namespace "default" {
  policy = "write"
}
node {
  policy = "read"
}
agent {
  policy = "read"
}
