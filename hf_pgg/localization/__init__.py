"""From a classifier to places: attribution maps, boxes on images, tubes in clips."""
