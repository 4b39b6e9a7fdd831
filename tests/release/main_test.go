package release

import (
	"testing"

	"github.com/weirhq/weir/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
