#include <stdio.h>

#include "greet.h"

int greet(char *into, unsigned long size, const char *name)
{
	return snprintf(into, size, "hello %s", name);
}
