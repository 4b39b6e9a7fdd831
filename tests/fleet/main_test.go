// Package fleet tests mirrors that share a bucket: the real binary against real servers.
package fleet

import (
	"testing"

	"github.com/weirhq/weir/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
