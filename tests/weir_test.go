package tests

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// binary is the path of the mirror that TestMain has built.
var binary string

func TestMain(m *testing.M) {
	if program, supervised := os.LookupEnv(supervisedVar); supervised {
		fmt.Fprintln(os.Stderr, execSupervised(program))
		os.Exit(1)
	}
	flag.Parse()
	dir, err := os.MkdirTemp("", "weir-tests-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "weir")
	build := exec.Command("go", "build", "-race", "-o", binary, "github.com/weirhq/weir/cmd/weir")
	build.Stderr = os.Stderr
	code := 1
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building the mirror:", err)
	} else {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}
