// Command mkimages makes test images and prints the paths of their archives:
// `go run ./test/mkimages busybox redis`, or `all`.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"hull/test/images"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	names := os.Args[1:]
	if len(names) == 0 {
		fmt.Fprintf(os.Stderr, "usage: mkimages all | NAME...\nnames: %v\n", images.Names())
		os.Exit(2)
	}
	if names[0] == "all" {
		names = images.Names()
	}
	for _, name := range names {
		file, err := images.Make(ctx, name)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(file)
	}
}
