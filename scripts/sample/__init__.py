"""The embedded data set, a look-alike lab in the layout of TLL: `python -m scripts.sample [folder]` draws it again.

The two images of a pair share one known factor (palette, silhouette, texture, pose or face) and differ in everything
else. The left image is photo-like (shading, light, clutter, blur, noise), the right one a poster. Every factor has 32
subjects and every subject gives one pair. What is drawn stands in drawings.toml, in the notation of `Scene`.
"""
