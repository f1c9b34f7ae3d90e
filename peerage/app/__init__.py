"""The live page, `peerage app`: start, stop and watch trainings, look into attention networks, compare runs.

It reads run folders. It writes only into the folder `.app` beside them: the configurations of the trainings that it
starts, and their output. Trainings are processes of their own, which do not depend on the page.
"""
