"""SSD object detection and its distillation."""
