"""The text of a job for a real Nomad agent, for tests and benches.

Its tasks are neither restarted nor rescheduled: a test has to see the first failure.
"""


def job_text(
    name: str,
    config: str,
    *,
    driver: str = "vm",
    task: str = "vm",
    count: int = 1,
    namespace: str = "default",
    kill_timeout: str = "20s",
    cpu: int = 200,
    memory_mib: int = 512,
    group_blocks: str = "",
    task_blocks: str = "",
) -> str:
    """Return a job of one task group with one task.

    Args:
        name: The job's name.
        config: What is in the task's `config` block.
        driver: The task's driver.
        task: The task's name.
        count: How many allocations.
        namespace: The job's namespace.
        kill_timeout: The task's, in Nomad's notation.
        cpu: The task's share of the CPU, in MHz.
        memory_mib: The task's memory.
        group_blocks: Further blocks of the group.
        task_blocks: Further blocks of the task.
    """
    return f"""
job "{name}" {{
  namespace = "{namespace}"
  group "g" {{
    count = {count}
    restart {{
      attempts = 0
      mode     = "fail"
    }}
    reschedule {{
      attempts  = 0
      unlimited = false
    }}
{group_blocks}
    task "{task}" {{
      driver       = "{driver}"
      kill_timeout = "{kill_timeout}"
      config {{
{config}
      }}
{task_blocks}
      resources {{
        cpu    = {cpu}
        memory = {memory_mib}
      }}
    }}
  }}
}}
"""


def user_data(text: str) -> str:
    """Return the `template` block by which a VM's config drive has `text` as its user data."""
    return f"""
      template {{
        destination = "local/config-drive/openstack/latest/user_data"
        data        = <<EOT
{text}
EOT
      }}
"""
