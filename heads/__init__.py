"""What is predicted from the `<STATE>` vector, and the bundle that holds model and heads together."""
