"""From a table of routes to an application: nothing is served that is not in a table.

- `application`: aiohttp's part
- `openapi`: the document of the routes
- `route`: one route, and what its handler is given
"""
