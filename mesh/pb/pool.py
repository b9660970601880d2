"""The descriptor pool of the Open Inference Protocol's messages (see protos/generate.py)."""

from google.protobuf.descriptor_pool import DescriptorPool

inference_pool = DescriptorPool()
