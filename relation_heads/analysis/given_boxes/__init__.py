"""Classes of given boxes from features of a frozen backbone, with and without relational layers."""
