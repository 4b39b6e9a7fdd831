package config

import (
	"fmt"
	"strings"
	"time"

	"github.com/weirhq/weir/oci"
)

// shortestEvery bounds how often an image is warmed: each time costs requests that
// registries count against rate limits.
const shortestEvery = Duration(time.Minute)

// warm checks a list of images to keep in the cache.
func (v *validator) warm(at, key string, w Warm) {
	if len(w.Images) == 0 {
		v.fail(at+".images", `is missing; name images such as "org/app:1.2"`)
	}
	for i, image := range w.Images {
		if image.Name == "" {
			continue // Load has reported it
		}
		v.failed(elementOf(at+".images", i), v.served(key, image.Name))
	}
	if w.Every < shortestEvery {
		v.fail(at+".every", "must be at least %s", shortestEvery)
	}
}

// served returns an error unless an image's name is one that a block serves.
func (v *validator) served(key, name string) error {
	if !oci.Below(name, key) {
		// "ghcr.io/org/app" in the block of docker.io is most likely a mistake, but
		// an upstream may have a repository of that name.
		host, _, _ := strings.Cut(name, "/")
		if name != host && defaultHost(host) != "" {
			return fmt.Errorf("%s is not below %s; move it to the block of %s, or put %[2]s/ before it if that is its name at the upstream", name, key, host)
		}
		name = key + "/" + name
	}
	// The block with the longest key serves a name.
	for _, other := range v.config.Namespaces {
		if len(other.Key) > len(key) && oci.Below(name, other.Key) {
			return fmt.Errorf("%s is served by %s (%s); move it there", name, keyIn("repository", other.Key), v.config.where(keyIn("repository", other.Key)))
		}
	}
	return nil
}
