int greet(char *into, unsigned long size, const char *name);
