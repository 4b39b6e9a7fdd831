package hostile

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// redisPrefix is cache.redis.key_prefix.
const redisPrefix = "weir-hostile"

// planter has all rights in the mirror's Redis. It plants tokens and cooldowns, and sends
// messages that are too large or make no sense.
func planter(s *stage) actor {
	var client *redis.Client
	if s.redis != nil {
		client = s.redis.Client(s.t)
	}
	plant := func(ctx context.Context, a *attacker) {
		if client == nil {
			return
		}
		n := a.next()
		a.sent.Add(1)
		channel := redisPrefix + ":cooldowns"
		for _, message := range []string{
			"", "{", "null", fmt.Sprintf(`{"version":2,"name":"%032x","left_ms":900000000000,"sent_ms":%d}`, n, time.Now().UnixMilli()),
			fmt.Sprintf(`{"version":2,"name":"%032x","left_ms":900000,"sent_ms":9223372036854775807,"seal":"AAAA"}`, n),
			fmt.Sprintf(`{"version":2,"name":"invented%d","left_ms":-1,"sent_ms":0}`, n), strings.Repeat("[", 32*kib),
		} {
			client.Publish(ctx, channel, message)
		}
		if n%20 == 0 { // the mirror hangs up
			client.Publish(ctx, channel, strings.Repeat("x", 2*mib))
		}
		for _, key := range client.Keys(ctx, redisPrefix+":token:*").Val() {
			client.Set(ctx, key, `{"token":"planted","expires":"2099-01-01T00:00:00Z","v":1}`, time.Hour)
		}
	}
	return actor{name: "planter", workers: 1, pause: 50 * time.Millisecond, attack: plant}
}
