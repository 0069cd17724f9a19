"""Tests in a virtual machine: a whole host of version 2 control groups, with every controller."""
