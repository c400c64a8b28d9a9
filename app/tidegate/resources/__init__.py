"""The reference API, one class per URL: what a user of the platform replaces with their own. Resources see `req.context`, the unit of
work and the store's port, never Redis; `application.py` gives each one its route."""
