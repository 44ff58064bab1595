"""What a model does: its run recorded as a graph, the graphs of its modules, queries about both."""
