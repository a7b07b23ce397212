"""What features are like, as they pass: statistics, windows of them, and what is made of them.

observed    columns of values, and where they passed
moments     count, mean, spread and range of numbers
statistics  all figures of one feature, in bounded memory
history     what is kept of them later
windows     the figures of each feature, window by window
"""
