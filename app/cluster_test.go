package app

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/cluster"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/internal/testutil"
)

// Each reason for which a replica is not read has a remedy with its key.
func TestReplicaAdvice(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{cluster.ErrUnreachable, "cluster.advertise"},
		{fmt.Errorf("asking: %w", cluster.ErrRefused), "cluster.secret"},
		{cluster.ErrSecret, "cache.redis.key_prefix for each other fleet"},
		{cluster.ErrClock, "Synchronize the clocks"},
		{cluster.ErrForeign, "cluster.peer_port"},
		{cluster.ErrVersion, "until all replicas have the same version"},
		{cluster.ErrScheme, "cluster.certificate on all"},
		{cluster.ErrTwin, "Set a different cluster.advertise"},
		{&url.Error{Op: "Get", Err: x509.UnknownAuthorityError{}}, "cluster.client_ca_bundle"},
		{x509.HostnameError{Certificate: &x509.Certificate{}, Host: "x"}, "Issue cluster.certificate"},
		{errors.New("connection refused"), "Check that it is running"},
	} {
		if got := replicaAdvice(tt.err); !strings.Contains(got, tt.want) {
			t.Errorf("%v: %q, want %q", tt.err, got, tt.want)
		}
	}
}

// A replica is reached at the address that leads to Redis, and listens on the loopback
// address only if that is it.
func TestReplicaHost(t *testing.T) {
	for _, tt := range []struct{ advertise, redis, bind, reached string }{
		{"", "127.0.0.1:6379", "127.0.0.1", "127.0.0.1"},
		{"", "[::1]:6379", "::1", "::1"},
		{"http://10.0.0.5:8001", "127.0.0.1:6379", "", "10.0.0.5"},
		{"http://localhost:8001", "10.0.0.1:6379", "127.0.0.1", "localhost"},
		{"https://weir-0.weir:8001", "10.0.0.1:6379", "", "weir-0.weir"},
	} {
		cfg := &config.Config{Cluster: &config.Cluster{Advertise: tt.advertise}, Cache: config.Cache{Redis: &config.Redis{Addrs: []string{tt.redis}}}}
		if got := replicaHost(cfg); got != (replicaAddress{tt.bind, tt.reached}) {
			t.Errorf("%q with %s: %+v", tt.advertise, tt.redis, got)
		}
	}
	// A Redis that cannot be found leaves another address of this machine.
	if got := ownAddress([]string{"not an address"}); !got.IsValid() || got.IsUnspecified() {
		t.Errorf("got %s", got)
	}
}

// A renewed certificate is used within a minute, and files that are being written are not.
func TestRenewedPair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		authority := testutil.NewAuthority(t)
		certificate, key := authority.Issue("replica", time.Now().AddDate(1, 0, 0))
		r := &renewedPair{certificate: certificate, key: key}
		serial := func() string {
			t.Helper()
			pair, err := r.get(nil)
			if err != nil {
				t.Fatal(err)
			}
			return pair.Leaf.SerialNumber.String()
		}
		first := serial()
		time.Sleep(time.Hour)
		authority.Issue("replica", time.Now().AddDate(1, 0, 0))
		renewed := serial()
		if renewed == first {
			t.Error("the renewed certificate is not used")
		}
		if err := os.WriteFile(key, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if serial() != renewed {
			t.Error("another certificate is used")
		}
	})
}
