"""Random changes of images as float64 loops over pixels, written from their formulas."""

import math

import numpy as np


def colour(image, *, b=1.0, c=1.0, s=1.0, turns=0.0):
    """b (m + c (y + s R(h) (x − y) − m)), pixel by pixel, with the hue turned in YIQ."""
    height, width, channels = image.shape
    changed, total = np.zeros(image.shape), 0.0
    for row in range(height):
        for column in range(width):
            if channels == 3:
                red, green, blue = map(float, image[row, column])
                total += 0.299 * red + 0.587 * green + 0.114 * blue
            else:
                total += float(image[row, column].mean())
    mean = total / (height * width)
    for row in range(height):
        for column in range(width):
            pixel = [float(value) for value in image[row, column]]
            if channels == 3:
                pixel = _turned(*pixel, s, 2 * math.pi * turns)
            for channel, value in enumerate(pixel):
                changed[row, column, channel] = min(1.0, max(0.0, b * (mean + c * (value - mean))))
    return changed


def _turned(red, green, blue, stretch, angle):
    y = 0.299 * red + 0.587 * green + 0.114 * blue
    i = 0.596 * red - 0.274 * green - 0.322 * blue
    q = 0.211 * red - 0.523 * green + 0.312 * blue
    length, direction = stretch * math.hypot(i, q), math.atan2(q, i) + angle
    i, q = length * math.cos(direction), length * math.sin(direction)
    coefficients = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    return np.linalg.solve(coefficients, [y, i, q]).tolist()


def hidden_by_cutout(height, width, side, *, down, right):
    """The pixels whose middle lies in the rectangle about (down, right), fractions of the sides."""
    hidden = np.zeros((height, width), bool)
    for row in range(height):
        for column in range(width):
            above = abs(row + 0.5 - down * height) < side * height / 2
            beside = abs(column + 0.5 - right * width) < side * width / 2
            hidden[row, column] = above and beside
    return hidden


def hidden_by_eyepatch(height, width, *, left, down, right):
    """The pixels whose middle lies in the ellipse; down and right in [-1, 1] are how far it is off its place."""
    middle = ((0.32 if left else 0.68) + 0.03 * right) * width
    level = (0.45 + 0.03 * down) * height
    hidden = np.zeros((height, width), bool)
    for row in range(height):
        for column in range(width):
            x, y = (column + 0.5 - middle) / (0.13 * width), (row + 0.5 - level) / (0.1 * height)
            hidden[row, column] = math.hypot(x, y) < 1
    return hidden
