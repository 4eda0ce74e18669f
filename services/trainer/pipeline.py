def run_recipe(recipe, path, threads): raise NotImplementedError
