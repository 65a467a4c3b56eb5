"""The contract that hardware, simulation and host share: data and integer arithmetic."""
