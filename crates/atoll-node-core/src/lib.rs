//! Desired state and observed state of a node, and the plan that joins them: pure.
