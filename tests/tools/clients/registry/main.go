// Command registry is go-containerregistry's registry, the one that has the
// referrers API. It listens on the address that is its argument, keeps content
// in memory, and logs each request to standard error.
package main

import (
	"log"
	"net/http"
	"os"

	"github.com/google/go-containerregistry/pkg/registry"
)

func main() {
	log.Fatal(http.ListenAndServe(os.Args[1], registry.New(registry.WithReferrersSupport(true))))
}
