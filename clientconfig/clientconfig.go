// Package clientconfig says what clients need to be told so that they pull
// through a mirror: the files, with their paths, of Docker, containerd, Podman,
// BuildKit and K3s.
//
// It is pure: the mirror's address and its namespaces go in, texts come out.
// Each client has a file of this package, which says what that client sends and
// thus which namespaces it can reach.
//
// No client is told to use the mirror for whatever registry an image is of, as
// some could be. A mirror answers a registry that it does not know from its
// default namespace, where an image of the same name may be another one.
package clientconfig

import (
	"fmt"
	"slices"
	"strings"
)

// dockerHub is what clients call Docker Hub.
const dockerHub = "docker.io"

// Namespace is one of the name spaces that the mirror serves.
type Namespace struct {
	Key     string // how the names that it serves begin
	Host    string // the registry that it answers for where a client names one; empty: none
	Default bool   // serves the names that no key matches
}

// Config is what a client needs.
type Config struct {
	Files    []File
	Warnings []string // what the client cannot have through the mirror, and what to use instead
	Hints    []string // what to do with the files
}

// File is a file on the client's machine.
type File struct {
	Path    string // absolute
	Content string
}

// client makes the configuration of one client.
type client struct {
	name string
	make func(Mirror, []Namespace) Config
}

func clients() []client {
	return []client{
		{"docker", docker},
		{"containerd", containerd},
		{"podman", podman},
		{"buildkit", buildkit},
		{"k3s", k3s},
	}
}

// Clients returns the names of the clients that [For] knows.
func Clients() []string {
	var names []string
	for _, c := range clients() {
		names = append(names, c.name)
	}
	return names
}

// For returns what a client needs to pull through a mirror with the given
// namespaces. It fails where it does not know the client, and where the mirror
// would have to be a mirror of itself.
func For(name string, m Mirror, namespaces []Namespace) (Config, error) {
	known := clients()
	i := slices.IndexFunc(known, func(c client) bool { return c.name == name })
	if i < 0 {
		return Config{}, fmt.Errorf("unknown client %q; known are %s", name, strings.Join(Clients(), ", "))
	}
	for _, n := range namespaces {
		if n.Host == m.Host {
			return Config{}, fmt.Errorf("%s cannot be the mirror, since it is also the registry that repository.%q mirrors", m.Host, n.Key)
		}
	}
	return known[i].make(m, namespaces), nil
}

// Print returns the files as one text: each begins with its path as a comment,
// and an empty line is between two.
func Print(files []File) string {
	texts := make([]string, len(files))
	for i, f := range files {
		texts[i] = "# " + f.Path + "\n" + f.Content
	}
	return strings.Join(texts, "\n")
}

// selectable returns the namespaces that a client can select which tells the
// mirror no more than a registry's host, in containerd's parameter ns, and a
// warning for each other one.
func selectable(client string, m Mirror, all []Namespace) (found []Namespace, warnings []string) {
	for _, n := range all {
		switch {
		case n.Host != "":
			found = append(found, n)
		case n.prefix() == "":
			warnings = append(warnings, m.nameless(n))
		case !n.spellable():
			warnings = append(warnings, n.unspellable())
		default:
			warnings = append(warnings, fmt.Sprintf("%s tells a mirror no more than a registry's host, so it does not reach repository.%q: "+
				"begin the names of these images with the mirror, %s/...", client, n.Key, m.spell(n)))
		}
	}
	return found, warnings
}

// nameless is the warning about a namespace that stands for no registry.
func (m Mirror) nameless(n Namespace) string {
	registry := "registry.example.com"
	if n.Key == "library" {
		registry = dockerHub
	}
	return fmt.Sprintf("repository.%q stands for no registry that images are named after: set its namespace to one, "+
		"as in namespace = %q, or begin the names of its images with the mirror, %s/...", n.Key, registry, m.spell(n))
}

// spell returns how the names of a namespace's images begin where they name the
// mirror.
func (m Mirror) spell(n Namespace) string { return m.Host + "/" + n.Key }

// spellable reports whether [Mirror.spell] begins the name of an image, which
// can have a port in its first segment only.
func (n Namespace) spellable() bool { return !strings.Contains(n.Key, ":") }

// unspellable is the warning about a namespace that is not spellable, for
// clients that can select it in no other way.
func (n Namespace) unspellable() string {
	text := fmt.Sprintf("repository.%q has a port in its key, and names of images cannot have one behind the mirror's: give the block a key without", n.Key)
	if n.Host != "" {
		text += fmt.Sprintf(", and namespace = %q", n.Host)
	}
	return text
}

// prefix is how the names of a namespace's images begin where they do not name
// the mirror: with its registry, or with part of one. It is empty where nothing
// is known of that.
func (n Namespace) prefix() string {
	if n.Host != "" {
		return n.Host
	}
	if first, _, _ := strings.Cut(n.Key, "/"); isHost(first) {
		return n.Key
	}
	return ""
}

// isHost reports whether clients take the first segment of an image's name for
// a registry, and not for a user of Docker Hub.
func isHost(segment string) bool {
	return strings.ContainsAny(segment, ".:") || segment == "localhost"
}
