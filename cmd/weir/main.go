// Command weir is a pull-through mirror for OCI registries.
//
// The package holds the commands: their flags, their help, their output and their
// exit codes. Package app makes the mirror.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/weirhq/weir/internal/printable"
)

func main() {
	useFallbackRoots()
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

// Exit codes.
const (
	exitFine   = 0
	exitFailed = 1 // while running
	exitUsage  = 2 // wrong usage or configuration
)

// maxError bounds the text of an error, in bytes: an invalid configuration has a line for each mistake.
const maxError = 1 << 20

// failure is an error that ends the program with a code of its own.
type failure struct {
	code int
	error
}

// run runs one command line and returns its exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cmd := rootCommand()
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return exitFine
	}
	fmt.Fprintf(stderr, "weir: %s\n", printable.Lines(err.Error(), maxError))
	// Commands set the code of a failure at work. Everything else is wrong
	// usage, such as an unknown flag, which cobra reports itself.
	if f, ok := errors.AsType[failure](err); ok {
		return f.code
	}
	return exitUsage // an error of cobra itself, such as an unknown flag
}
