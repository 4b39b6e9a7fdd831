package hostile

import (
	"context"
	"fmt"
	"time"
)

// collector asks for the catalog again and again, with many clients at once.
func collector(*stage) actor {
	ask := func(ctx context.Context, a *attacker) {
		a.get(ctx, "/v2/_catalog")
		a.get(ctx, fmt.Sprintf("/v2/_catalog?n=%d&last=open/none%d", a.next()%2000, a.next()))
	}
	return actor{name: "collector", workers: 24, pause: 200 * time.Millisecond, attack: ask}
}
