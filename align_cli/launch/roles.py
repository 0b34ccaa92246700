"""The models that every process holds, by the names that tasks have for them."""

POLICY, REFERENCE = "policy", "reference"
