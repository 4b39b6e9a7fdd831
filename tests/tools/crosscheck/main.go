// Command crosscheck finds code that another system than Linux cannot compile, in the packages
// that cmd/weir has there. It checks types from the source and compiles nothing, so that it takes
// seconds: a compiler would begin with the whole standard library.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"

	"golang.org/x/tools/go/packages"
)

const module = "github.com/weirhq/weir"

func main() {
	directory := flag.String("C", ".", "the `directory` of the repository")
	flag.Parse()
	if err := os.Chdir(*directory); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	failed := false
	for _, system := range flag.Args() {
		if err := check(system); err != nil {
			fmt.Fprintf(os.Stderr, "for %s: %v\n", system, err)
			failed = true
		}
	}
	if failed {
		os.Exit(1)
	}
}

// check checks the program for one system, such as "windows".
func check(system string) error {
	config := packages.Config{Env: append(os.Environ(), "GOOS="+system, "GOARCH=amd64", "CGO_ENABLED=0", "GOFLAGS=-tags=grpcnotrace")}
	config.Mode = packages.NeedName | packages.NeedImports | packages.NeedDeps
	program, err := packages.Load(&config, module+"/cmd/weir")
	if err != nil {
		return err
	}
	var ours []string
	packages.Visit(program, nil, func(p *packages.Package) {
		if strings.HasPrefix(p.PkgPath, module) {
			ours = append(ours, p.PkgPath)
		}
	})
	// The bodies of functions are checked in the packages that are named.
	config.Mode |= packages.NeedFiles | packages.NeedSyntax | packages.NeedTypes | packages.NeedTypesInfo
	loaded, err := packages.Load(&config, ours...)
	if err != nil {
		return err
	}
	if n := packages.PrintErrors(loaded); n > 0 {
		return fmt.Errorf("%d errors", n)
	}
	fmt.Printf("%s: %d packages\n", system, len(ours))
	return nil
}
