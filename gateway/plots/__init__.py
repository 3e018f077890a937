"""Plots of Loragate's own figures, each an SVG element in a string. The only folder that draws."""
