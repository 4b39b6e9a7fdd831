package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bsm/redislock"
	"github.com/redis/go-redis/v9"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/door/acme"
)

// acmeDNSTimeout bounds a request to an acme-dns server.
const acmeDNSTimeout = 30 * time.Second

// authority returns the manager of a table [server.tls.acme]: the present one if nothing
// has changed.
func (e *entrance) authority(cfg config.ACME) (*authority, error) {
	files, err := readTLSFiles("", "", cfg.CABundle)
	if err != nil {
		return nil, err
	}
	if e.acme != nil && reflect.DeepEqual(e.acme.cfg, cfg) && e.acme.ca == files.sum() {
		return e.acme, nil
	}
	opts := acme.Options{
		Email: cfg.Email, Directory: cfg.Directory.String(), KeyID: cfg.EABKeyID, HMACKey: cfg.EABHMACKey.Reveal(),
		HTTPAddress: net.JoinHostPort(e.bind, strconv.Itoa(cfg.HTTPPort)), Store: e.store, Locks: e.locks, Logger: e.logger,
	}
	for _, host := range cfg.Hosts {
		opts.Hosts = append(opts.Hosts, strings.ToLower(host)) // as authorities write it
	}
	if opts.Roots, err = files.pool(); err != nil {
		return nil, fmt.Errorf("ca_bundle: %w", err)
	}
	switch cfg.Challenge {
	case config.ChallengeHTTP:
		opts.Challenge = acme.HTTP
	case config.ChallengeTLSALPN:
		opts.Challenge = acme.TLSALPN
	case config.ChallengeDNS:
		opts.Challenge = acme.DNS
		if opts.DNS, err = dnsRecords(*cfg.DNS, e.logger); err != nil {
			return nil, err
		}
	}
	return &authority{acme.New(opts), cfg, files.sum()}, nil
}

// dnsRecords returns the access to the DNS server of a table [server.tls.acme.dns].
func dnsRecords(cfg config.ACMEDNS, logger *slog.Logger) (acme.Records, error) {
	switch cfg.Provider {
	case config.ProviderRFC2136:
		return acme.RFC2136{
			Server: cfg.ServerAddress(), Zone: cfg.Zone, KeyName: cfg.TSIGName, Algorithm: cfg.TSIGAlgorithm, Secret: cfg.TSIGSecret.Reveal(), Logger: logger,
		}, nil
	case config.ProviderACMEDNS:
		u, err := url.Parse(cfg.URL)
		return acme.ACMEDNS{
			URL: u, Username: cfg.Username, Password: cfg.Password.Reveal(), Subdomain: cfg.Subdomain, Client: &http.Client{Timeout: acmeDNSTimeout},
		}, err
	case config.ProviderExec:
		return acme.Hook{Command: cfg.Command}, nil
	default:
		return nil, fmt.Errorf("dns.provider: no provider is called %q", cfg.Provider)
	}
}

const (
	// lockLease is how long a lock in Redis outlives a process that has crashed.
	lockLease = 30 * time.Second
	// lockRetry is the pause between two attempts to get a lock.
	lockRetry = 500 * time.Millisecond
)

// acmeLocks let one of all processes ask an authority: those on one data directory by
// files, and those with one Redis by a lock there. Without Redis, or if it fails, another
// machine may ask for the same certificate, which is harmless.
type acmeLocks struct {
	files  *acme.FileLocks
	redis  atomic.Pointer[sharedRedis]
	logger *slog.Logger

	mu   sync.Mutex
	held map[string]context.CancelFunc // end the locks in Redis
}

func newACMELocks(dir string, logger *slog.Logger) *acmeLocks {
	return &acmeLocks{files: acme.NewFileLocks(filepath.Join(dir, "acme")), held: make(map[string]context.CancelFunc), logger: logger}
}

// Lock implements acme.Locker.
func (l *acmeLocks) Lock(ctx context.Context, name string) error {
	if err := l.files.Lock(ctx, name); err != nil {
		return err
	}
	inUse := l.redis.Load()
	if inUse == nil {
		return nil
	}
	lock, err := obtain(ctx, inUse.client, inUse.cfg.KeyPrefix+":lock:"+name)
	if deadline, ok := ctx.Deadline(); ok && err != nil && time.Until(deadline) <= 0 {
		<-ctx.Done() // the timer of the connection may be ahead of the context's
	}
	switch {
	case ctx.Err() != nil:
		return errors.Join(ctx.Err(), l.files.Unlock(ctx, name))
	case err != nil:
		l.logger.Warn("cannot lock the request for a certificate in Redis, so another instance may request the same one. Check that Redis is running and can be written", "error", err)
		return nil
	}
	keep, release := context.WithCancel(context.Background())
	l.mu.Lock()
	l.held[name] = release
	l.mu.Unlock()
	go keepLock(keep, lock)
	return nil
}

// obtain waits for a lock in Redis.
func obtain(ctx context.Context, client redis.UniversalClient, key string) (*redislock.Lock, error) {
	locks := redislock.New(client)
	for {
		// Obtain gives up after the lease.
		lock, err := locks.Obtain(ctx, key, lockLease, &redislock.Options{RetryStrategy: redislock.LinearBackoff(lockRetry)})
		if !errors.Is(err, redislock.ErrNotObtained) || ctx.Err() != nil {
			return lock, err
		}
	}
}

// keepLock prolongs a lock until its context ends, and releases it.
func keepLock(ctx context.Context, lock *redislock.Lock) {
	ticker := time.NewTicker(lockLease / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			_ = lock.Refresh(ctx, lockLease, nil) // the next one may succeed
		case <-ctx.Done():
			const brief = 5 * time.Second
			ctx, cancel := context.WithTimeout(context.Background(), brief)
			defer cancel()
			_ = lock.Release(ctx) // else it ends with its lease
			return
		}
	}
}

// Unlock implements acme.Locker.
func (l *acmeLocks) Unlock(ctx context.Context, name string) error {
	l.mu.Lock()
	release := l.held[name]
	delete(l.held, name)
	l.mu.Unlock()
	if release != nil {
		release()
	}
	return l.files.Unlock(ctx, name)
}
