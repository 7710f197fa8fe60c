"""What a repository lets its job specs ask for: pushtrain-policy.yaml, read from the branch that is merged into."""

from pushtrain.policy.model import POLICY_FILE as POLICY_FILE
from pushtrain.policy.model import Approval as Approval
from pushtrain.policy.model import Policy as Policy
