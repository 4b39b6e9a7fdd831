// Package clients holds the tests of real clients: the programs that pull
// images and artifacts, each against the real binary and a real registry.
package clients

import (
	"testing"

	"github.com/weirhq/weir/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
