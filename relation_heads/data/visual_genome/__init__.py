"""Visual Genome: from its JSON files to COCO format."""
