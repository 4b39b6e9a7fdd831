package check_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/weirhq/weir/app"
	"github.com/weirhq/weir/check"
)

func TestMain(m *testing.M) {
	check.UseAdvice(check.Advice{Failure: app.ExplainUpstream, MoreRequests: app.MoreRequests})
	goleak.VerifyTestMain(m)
}
