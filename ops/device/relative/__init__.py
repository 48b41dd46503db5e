"""The OFA family: positions as learned biases of attention, scales as in NormFormer.

docs/ofa.md says where and why it departs from OFASys.
"""
