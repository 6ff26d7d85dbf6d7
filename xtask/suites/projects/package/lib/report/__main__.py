import sys

counts = {}
for line in open(sys.argv[1]):
    for word in line.split():
        counts[word] = counts.get(word, 0) + 1
print(" ".join(f"{word}={count}" for word, count in sorted(counts.items())))
