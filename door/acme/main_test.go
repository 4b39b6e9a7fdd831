package acme

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// certmagic's limit of orders has a goroutine that lasts as long as the process.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.(*RingBufferRateLimiter).loop"))
}
