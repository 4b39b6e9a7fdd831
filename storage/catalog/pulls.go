package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

const (
	// pullsVersion is the version of the records of pulls. A record of another version
	// counts as absent.
	pullsVersion = 1
	// maxCounted is how many tags, and how many images, of a repository have counts of
	// their own: those that were pulled last. A record has 400 KiB then, with ten clients each.
	maxCounted = 200
	// maxCountedDays is how many days have counts of their own.
	maxCountedDays = 30
	// maxCountedClients is how many clients are remembered, the last ones.
	maxCountedClients = 10
	// maxReplicas bounds the records of pulls of one repository that are summed up.
	maxReplicas = 256
	// MaxClientName is the length of the longest name of a client, in bytes.
	MaxClientName = 255
)

// Pulls counts the pulls of a repository, a tag or an image. The zero value has none.
type Pulls struct {
	Total int64     `json:"total"`
	Last  time.Time `json:"last"`
	// Days are the pulls of the day Newest, of the day before, and so on.
	Newest  int64    `json:"newest,omitempty"` // in days of UTC since 1970
	Days    []int64  `json:"days,omitempty"`
	Clients []Client `json:"clients,omitempty"` // the last one first
}

// Client is a user, or the address of a client without credentials.
type Client struct {
	Name string    `json:"name"`
	Last time.Time `json:"last"`
}

// RepositoryPulls are the pulls of a repository and those of its tags and images. Of these, a
// bounded number is counted, those that were pulled last.
type RepositoryPulls struct {
	Version int                     `json:"version"`
	All     Pulls                   `json:"all"`
	Tags    map[string]Pulls        `json:"tags,omitempty"`
	Images  map[digest.Digest]Pulls `json:"images,omitempty"`
}

// PullsAt returns a number of pulls at one time.
func PullsAt(n int64, at time.Time, clients ...Client) Pulls {
	return Pulls{Total: n, Last: at, Newest: DayOf(at), Days: []int64{n}, Clients: clients}
}

// DayOf returns the number of a day of UTC since 1970.
func DayOf(at time.Time) int64 { return at.Unix() / int64(24*time.Hour/time.Second) }

// On returns the pulls of a day.
func (p Pulls) On(day int64) int64 {
	if ago := p.Newest - day; ago >= 0 && ago < int64(len(p.Days)) {
		return p.Days[ago]
	}
	return 0
}

// Plus returns the sum of two counts.
func (p Pulls) Plus(q Pulls) Pulls {
	sum := Pulls{Total: p.Total + q.Total, Last: p.Last, Newest: max(p.Newest, q.Newest)}
	if q.Last.After(sum.Last) {
		sum.Last = q.Last
	}
	oldest := sum.Newest
	for _, part := range []Pulls{p, q} {
		if len(part.Days) > 0 {
			oldest = min(oldest, part.Newest-int64(len(part.Days))+1)
		}
	}
	for day := sum.Newest; day >= oldest && len(sum.Days) < maxCountedDays; day-- {
		sum.Days = append(sum.Days, p.On(day)+q.On(day))
	}
	last := make(map[string]time.Time)
	for _, c := range slices.Concat(p.Clients, q.Clients) {
		if last[c.Name].Before(c.Last) {
			last[c.Name] = c.Last
		}
	}
	for name, at := range last {
		sum.Clients = append(sum.Clients, Client{name, at})
	}
	slices.SortFunc(sum.Clients, func(a, b Client) int { return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(a.Name, b.Name)) })
	sum.Clients = sum.Clients[:min(len(sum.Clients), maxCountedClients)]
	return sum
}

// until returns the pulls without times that lie in the future, which a clock that ran ahead
// has written: no other day would count until then.
func (p Pulls) until(now time.Time) Pulls {
	if p.Newest > DayOf(now) {
		p.Newest, p.Days = 0, nil
	}
	if p.Last.After(now) {
		p.Last = now
	}
	p.Clients = slices.Clone(p.Clients)
	for i := range p.Clients {
		if p.Clients[i].Last.After(now) {
			p.Clients[i].Last = now
		}
	}
	return p
}

// Plus returns the sum of two counts. Of the tags and images, it has those that were pulled last.
func (r RepositoryPulls) Plus(s RepositoryPulls) RepositoryPulls {
	return RepositoryPulls{
		Version: pullsVersion, All: r.All.Plus(s.All),
		Tags: sumOf(r.Tags, s.Tags), Images: sumOf(r.Images, s.Images),
	}
}

func (r RepositoryPulls) until(now time.Time) RepositoryPulls {
	r.All = r.All.until(now)
	for tag, p := range r.Tags {
		r.Tags[tag] = p.until(now)
	}
	for dgst, p := range r.Images {
		r.Images[dgst] = p.until(now)
	}
	return r
}

func sumOf[K cmp.Ordered](a, b map[K]Pulls) map[K]Pulls {
	sum := make(map[K]Pulls, len(a)+len(b))
	maps.Copy(sum, a)
	for key, p := range b {
		sum[key] = sum[key].Plus(p)
	}
	if len(sum) > maxCounted {
		keys := slices.SortedFunc(maps.Keys(sum), func(a, b K) int {
			return cmp.Or(sum[b].Last.Compare(sum[a].Last), cmp.Compare(a, b))
		})
		for _, key := range keys[maxCounted:] {
			delete(sum, key)
		}
	}
	return sum
}

// AddPulls adds pulls to those that one mirror has counted. The mirrors on one bucket write a
// record each, so that none overwrites the counts of another one.
func (c *Catalog) AddPulls(ctx context.Context, repo storage.RepoID, mirror string, pulls RepositoryPulls) error {
	key, err := leafKey(repo, pullsSegment, mirror)
	if err != nil {
		return err
	}
	return c.pulls.replace(ctx, key, func(known RepositoryPulls) (RepositoryPulls, bool) {
		return known.until(time.Now()).Plus(pulls), true
	})
}

// Pulls returns the pulls of a repository that all mirrors on these records have counted.
func (c *Catalog) Pulls(ctx context.Context, repo storage.RepoID) (RepositoryPulls, error) {
	prefix, err := repositoryKey(repo, pullsSegment)
	if err != nil {
		return RepositoryPulls{}, err
	}
	var sum RepositoryPulls
	records := 0
	for key, err := range c.records.List(ctx, prefix) {
		if err != nil {
			return RepositoryPulls{}, fmt.Errorf("storage: cannot list the pulls of %s: %w", repo, err)
		}
		one, err := c.pulls.get(ctx, key)
		if errors.Is(err, storage.ErrNotExist) { // unreadable, or deleted since it was listed
			continue
		}
		if err != nil {
			return RepositoryPulls{}, err
		}
		sum = sum.Plus(one.until(time.Now()))
		if records++; records == maxReplicas {
			break
		}
	}
	return sum, nil
}

func validRepositoryPulls(_ string, r RepositoryPulls) error {
	invalid := func(of string) error {
		return fmt.Errorf("%w: impossible counts of pulls of %s", storage.ErrInvalidRecord, of)
	}
	switch {
	case r.Version != pullsVersion:
		return fmt.Errorf("%w: pulls in version %d of their format", storage.ErrInvalidRecord, r.Version)
	case len(r.Tags) > maxCounted, len(r.Images) > maxCounted, !r.All.valid():
		return invalid("a repository")
	}
	for tag, p := range r.Tags {
		if strings.Contains(tag, "/") || storage.ValidateKey(tag) != nil || !p.valid() {
			return invalid("a tag")
		}
	}
	for dgst, p := range r.Images {
		if storage.ValidateDigest(dgst) != nil || !p.valid() {
			return invalid("an image")
		}
	}
	return nil
}

func (p Pulls) valid() bool {
	return p.Total >= 0 && p.Newest >= 0 && len(p.Days) <= maxCountedDays && len(p.Clients) <= maxCountedClients &&
		!slices.ContainsFunc(p.Days, func(n int64) bool { return n < 0 }) &&
		!slices.ContainsFunc(p.Clients, func(c Client) bool {
			return c.Name == "" || len(c.Name) > MaxClientName || !utf8.ValidString(c.Name)
		})
}
