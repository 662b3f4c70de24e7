"""How far apart two colours are to people, with and without red or green cones.

CIEDE2000 after Sharma, Wu and Dalal (2005); dichromats by the matrices of Machado,
Oliveira and Fernandes (2009) at full severity, on linear RGB.
"""

import numpy as np

CONES = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def lab(rgb, cones="normal"):
    """CIELAB (D65) of an sRGB colour in 0..1, as these cones see it."""
    c = np.asarray(rgb, float)
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    seen = np.clip(CONES[cones] @ linear, 0, 1)
    t = TO_XYZ @ seen / TO_XYZ.sum(1)
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def ciede2000(one, two):
    """The difference of two CIELAB colours."""
    (L1, a1, b1), (L2, a2, b2) = one, two
    c7 = ((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2) ** 7
    g = 0.5 * (1 - np.sqrt(c7 / (c7 + 25**7)))
    a1, a2 = (1 + g) * a1, (1 + g) * a2
    C1, C2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = (np.degrees(np.arctan2(b, a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    grey = C1 * C2 == 0
    dh = 0 if grey else (h2 - h1 + 180) % 360 - 180
    mean_h = h1 + h2 if grey else (h1 + dh / 2) % 360
    L, C, h = (L1 + L2) / 2, (C1 + C2) / 2, np.radians(mean_h)
    t = 1 - 0.17 * np.cos(h - np.radians(30)) + 0.24 * np.cos(2 * h)
    t += 0.32 * np.cos(3 * h + np.radians(6)) - 0.2 * np.cos(4 * h - np.radians(63))
    s_L = 1 + 0.015 * (L - 50) ** 2 / np.sqrt(20 + (L - 50) ** 2)
    s_C, s_H = 1 + 0.045 * C, 1 + 0.015 * C * t
    turn = np.radians(60 * np.exp(-(((mean_h - 275) / 25) ** 2)))
    r = -2 * np.sqrt(C**7 / (C**7 + 25**7)) * np.sin(turn)
    dH = 2 * np.sqrt(C1 * C2) * np.sin(np.radians(dh) / 2) / s_H
    dL, dC = (L2 - L1) / s_L, (C2 - C1) / s_C
    return float(np.sqrt(dL**2 + dC**2 + dH**2 + r * dC * dH))


def least_difference(one, two):
    """The smallest difference of two sRGB colours over all kinds of cones."""
    return min(ciede2000(lab(one, c), lab(two, c)) for c in CONES)
