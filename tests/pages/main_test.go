package pages

import (
	"testing"

	"github.com/weirhq/weir/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(withBrowser{m}) }

// withBrowser are tests that share a browser.
type withBrowser struct{ *testing.M }

// Run runs the tests, and ends the browser if one of them has started it.
func (m withBrowser) Run() int {
	defer chromium.end()
	return m.M.Run()
}
