"""Class graphs: from annotations, from WordNet, from files."""
