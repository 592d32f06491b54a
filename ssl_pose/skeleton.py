"""The COCO person skeleton: 17 keypoints, their mirror pairs, limbs, torso and the spread of annotations.

Names and order are those of the COCO keypoint annotations (`categories[0].keypoints`); "left" is the
person's left, so a mirrored image needs its left and right keypoints exchanged as well as moved.
"""

KEYPOINT_NAMES = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)

NUM_KEYPOINTS = len(KEYPOINT_NAMES)

# Every left keypoint is followed by its right one; only the nose has no partner.
FLIP_PAIRS = tuple((left, left + 1) for left in range(1, NUM_KEYPOINTS, 2))

# FLIP_PERMUTATION[k] is the keypoint that k becomes in a mirror; it is its own inverse.
FLIP_PERMUTATION = (0, *(index for left, right in FLIP_PAIRS for index in (right, left)))

# COCO's 19 edges (`categories[0].skeleton`, there counted from 1), from the feet to the face.
LIMBS = (
    (15, 13),
    (13, 11),
    (16, 14),
    (14, 12),
    (11, 12),
    (5, 11),
    (6, 12),
    (5, 6),
    (5, 7),
    (6, 8),
    (7, 9),
    (8, 10),
    (1, 2),
    (0, 1),
    (0, 2),
    (1, 3),
    (2, 4),
    (3, 5),
    (4, 6),
)

# Each shoulder with the opposite hip: the diagonals whose mean length is PCK's reference length.
TORSO_DIAGONALS = ((5, 12), (6, 11))

# Spread of the annotators per keypoint, as a share of the square root of the person's area. Source: COCO's
# evaluation (pycocotools.cocoeval.Params.kpt_oks_sigmas); OKS uses twice these values.
OKS_SIGMAS = (
    0.026,
    0.025,
    0.025,
    0.035,
    0.035,
    0.079,
    0.079,
    0.072,
    0.072,
    0.062,
    0.062,
    0.107,
    0.107,
    0.087,
    0.087,
    0.089,
    0.089,
)
