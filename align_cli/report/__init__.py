"""Reports: artifacts and metrics become tables; what they are drawn on is the caller's business."""
