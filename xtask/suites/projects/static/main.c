#include <stdio.h>
#include <unistd.h>

#include "greet.h"

int main(int argc, char **argv)
{
	char text[64];

	greet(text, sizeof text, argc > 1 ? argv[1] : "nobody");
	printf("%s from %s as %d\n", text, VERSION, (int)getuid());
	return 0;
}
