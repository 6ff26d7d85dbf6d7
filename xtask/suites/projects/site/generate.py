import os
import sys

source, target = sys.argv[1:]
os.makedirs(target)
for name in sorted(os.listdir(source)):
    lines = open(os.path.join(source, name)).read().splitlines()
    page = f"<h1>{lines[0]}</h1>" + "".join(f"<p>{line}</p>" for line in lines[1:])
    with open(os.path.join(target, name.replace(".txt", ".html")), "w") as file:
        file.write(page)
