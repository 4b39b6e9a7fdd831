package tokencache_test

import (
	"context"
	"fmt"
	"time"

	"github.com/weirhq/weir/tokencache"
)

// The second request for a token costs nothing, and a token that the registry
// refuses is replaced.
func ExampleCache() {
	cache := tokencache.New(tokencache.NewMemory(100), nil)
	defer cache.Close()
	issued := 0
	acquire := func(context.Context) (tokencache.Token, error) { // in truth, a request to the token service
		issued++
		now := time.Now()
		return tokencache.Token{Value: fmt.Sprint("token-", issued), Issued: now, Expires: now.Add(5 * time.Minute)}, nil
	}
	key := tokencache.Key{
		Registry: "https://registry.example",
		Realm:    "https://auth.example/token",
		Scope:    "repository:team/app:pull",
		Account:  tokencache.Fingerprint("reader", "password"),
	}

	ctx := context.Background()
	for range 2 {
		token, err := cache.Token(ctx, key, acquire)
		fmt.Println(token.Value, err)
	}
	refused, _ := cache.Token(ctx, key, acquire)
	cache.Invalidate(ctx, key, refused)
	token, err := cache.Token(ctx, key, acquire)
	fmt.Println(token.Value, err)
	fmt.Println(token.String() != token.Value) // printing a token never shows its value
	// Output:
	// token-1 <nil>
	// token-1 <nil>
	// token-2 <nil>
	// true
}
