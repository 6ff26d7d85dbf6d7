#include <string.h>

#include "greet.h"

int main(void)
{
	char text[16];

	return greet(text, sizeof text, "test") != 10 || strcmp(text, "hello test");
}
