"""The parts of `helpers.observe`: calls within quotas, histories of executions, their items, a diagnosis."""
