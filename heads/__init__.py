"""What is predicted from the `<STATE>` vector; the bundle that holds model and heads."""
