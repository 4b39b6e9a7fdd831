package tests

import (
	"fmt"
	"os"
	"testing"

	"github.com/weirhq/weir/tests/harness"
)

func TestMain(m *testing.M) {
	if program, supervised := os.LookupEnv(supervisedVar); supervised {
		fmt.Fprintln(os.Stderr, execSupervised(program))
		os.Exit(1)
	}
	harness.Main(m)
}
