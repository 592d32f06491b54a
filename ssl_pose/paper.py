"""The paper's numbers, each once and with its source, keyed by the names that our arms have.

Source: Yu et al., "Denoising and Selecting Pseudo-Heatmaps for Semi-Supervised Human Pose Estimation",
WACV 2024, supplementary material. COCO-Partial, 1K labelled images, mAP and PCK in percent.
The paper prints one number a cell, without a spread and without a number of seeds.
"""

TABLE_1 = {"none": 63.5, "average": 63.9, "maximum": 66.0}  # PCK of pseudo-heatmaps, threshold not stated

TABLE_2 = {  # mAP
    "teacher_student": 32.83,
    "teacher_student_refine": 36.53,
    "dual_student": 42.67,
    "dual_student_refine": 44.13,
}

# The scale of the protocol, which the paper does not print: Xie et al., ICCV 2021 (ResNet-18, 1K labels).
SUPERVISED_MAP = 31.5
ALL_LABELS_MAP = 67.1
SUPERVISED_MAPS = {1_000: SUPERVISED_MAP, 5_000: 46.4, 10_000: 51.1}  # by labelled images
POOL_PASSES = 30.0  # epochs over the unlabelled images, theirs with 1K labels; assumed for the paper
