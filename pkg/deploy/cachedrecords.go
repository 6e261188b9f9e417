package deploy

import (
	"maps"
	"slices"
	"sync"

	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage/driver"
)

// cachedRecords is Helm's storage for one action on one release. Helm reads all records again for
// each of its steps, and to unpack those of a large chart takes longer than all its requests. Here
// they are read once, and again after one of them was written.
type cachedRecords struct {
	driver.Driver
	name string // of the release

	mu    sync.Mutex
	known []*release.Release // nil until they are read
}

// Query returns copies, since Helm changes what it gets.
func (c *cachedRecords) Query(labels map[string]string) (found []*release.Release, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if labels["name"] != c.name {
		return c.Driver.Query(labels)
	}
	if c.known == nil {
		if c.known, err = c.Driver.Query(map[string]string{"owner": "helm", "name": c.name}); err != nil {
			return nil, err
		}
	}
	for _, record := range c.known {
		if status := labels["status"]; status == "" || status == record.Info.Status.String() {
			found = append(found, copyOf(record))
		}
	}
	if len(found) == 0 {
		return nil, driver.ErrReleaseNotFound
	}
	return found, nil
}

// Create writes a record.
func (c *cachedRecords) Create(key string, record *release.Release) error {
	c.forget()
	defer c.forget() // of what is read meanwhile
	return c.Driver.Create(key, record)
}

// Update writes a record.
func (c *cachedRecords) Update(key string, record *release.Release) error {
	c.forget()
	defer c.forget() // of what is read meanwhile
	return c.Driver.Update(key, record)
}

// Delete deletes a record.
func (c *cachedRecords) Delete(key string) (*release.Release, error) {
	c.forget()
	defer c.forget() // of what is read meanwhile
	return c.Driver.Delete(key)
}

func (c *cachedRecords) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known = nil
}

// copyOf copies what Helm changes in a record.
func copyOf(record *release.Release) *release.Release {
	made, info := *record, *record.Info
	made.Info, made.Labels, made.Hooks = &info, maps.Clone(record.Labels), slices.Clone(record.Hooks)
	for i, hook := range made.Hooks {
		one := *hook
		made.Hooks[i] = &one
	}
	return &made
}
